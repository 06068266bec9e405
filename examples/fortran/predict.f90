! Energies and forces of geometries in a text file, in Fortran 2008. The module comes as source with the headers:
!
!     gfortran $(fastgdml-config --includedir)/fastgdml.f90 predict.f90 -o predict $(fastgdml-config --libs)
!     ./predict ethanol.fgdml geometries.txt
!
! The text file has one line for each atom, x y z, in the length unit of the model and the order of its atoms, geometry
! after geometry. Prints a line for each geometry: its energy, and its largest component of a force.
program predict
  use fastgdml
  implicit none
  character(4096) :: model_file, geometry_file
  type(c_ptr) :: model
  real(c_double), allocatable :: r(:, :, :)
  real(c_double), allocatable, target :: energy(:), forces(:, :, :)
  integer :: n_atoms, n_geo, geo

  if (command_argument_count() /= 2) call stop_with('usage: predict MODEL.fgdml GEOMETRIES.txt')
  call get_command_argument(1, model_file)
  call get_command_argument(2, geometry_file)

  if (load(model_file, model) /= FASTGDML_SUCCESS) call stop_with(last_error())
  n_atoms = fastgdml_model_n_atoms(model)
  call read_geometries(trim(geometry_file), n_atoms, r)
  n_geo = size(r, 3)

  ! All geometries in one call: faster than one by one. No lattice, no virials; 0: as many threads as there are.
  allocate (energy(n_geo), forces(3, n_atoms, n_geo))
  if (fastgdml_predict(model, int(n_geo, c_int64_t), r, c_null_ptr, c_loc(energy), c_loc(forces), c_null_ptr, &
                       0_c_int) /= FASTGDML_SUCCESS) call stop_with(last_error())

  print '(7a)', '# energy in ', fortran_string(fastgdml_model_energy_unit(model)), &
    ', largest component of a force in ', fortran_string(fastgdml_model_energy_unit(model)), '/', &
    fortran_string(fastgdml_model_length_unit(model))
  do geo = 1, n_geo
    print '(es17.9e2, 1x, es17.9e2)', energy(geo), maxval(abs(forces(:, :, geo)))
  end do
  call fastgdml_model_free(model)

contains

  ! Read r(3, n_atoms, n_geo): count the lines, then take as many.
  subroutine read_geometries(path, n_atoms, r)
    character(*), intent(in) :: path
    integer, intent(in) :: n_atoms
    real(c_double), allocatable, intent(out) :: r(:, :, :)
    real(c_double) :: position(3)
    integer :: unit, status, n_lines
    open (newunit=unit, file=path, status='old', action='read', iostat=status)
    if (status /= 0) call stop_with(path//' cannot be opened')
    n_lines = 0
    do
      read (unit, *, iostat=status) position
      if (status /= 0) exit
      n_lines = n_lines + 1
    end do
    if (.not. is_iostat_end(status)) call stop_with(path//' holds what is no number')
    if (n_lines == 0 .or. modulo(n_lines, n_atoms) /= 0) call stop_with(path//' does not hold whole geometries')
    allocate (r(3, n_atoms, n_lines / n_atoms))
    rewind (unit)
    read (unit, *) r
    close (unit)
  end subroutine read_geometries

  subroutine stop_with(message)
    use, intrinsic :: iso_fortran_env, only: error_unit
    character(*), intent(in) :: message
    write (error_unit, '(a)') message
    error stop
  end subroutine stop_with

end program predict
